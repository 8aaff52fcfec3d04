//! What a request truly is, apart from anything the scheduler does: its content, position by
//! position, and the tokens that follow from it.

use crate::random::mix;
use scheduler::{NewRequest, StopRule};
use types::output::FinishReason;
use types::prompt::ExpandedPrompt;
use types::{RequestId, TokenId};

/// Tokens that are sampled: `0..VOCAB`; 0 is the one that may end an answer.
pub(crate) const VOCAB: u64 = 20;

/// One choice of a request.
#[derive(Default)]
pub(crate) struct Choice {
    pub(crate) answer: Vec<TokenId>,
    /// Content of the KV slot of each answered token.
    chain: Vec<u64>,
    /// It was ended from outside.
    pub(crate) is_stopped: bool,
    pub(crate) is_over: bool,
}

pub(crate) struct Truth {
    pub(crate) id: RequestId,
    pub(crate) prompt: ExpandedPrompt,
    pub(crate) first_choice: u32,
    pub(crate) n_answered: usize,
    pub(crate) stop: StopRule,
    pub(crate) needs_tokens: bool,
    pub(crate) choices: Vec<Choice>,
    /// Content of the KV slot of each prompt token.
    chain: Vec<u64>,
    /// Per item: rows are at hand.
    pub(crate) has_rows: Vec<bool>,
    /// It has embedding memory for all its items.
    pub(crate) holds_memory: bool,
    /// Its rows were given back when its prompt had been computed.
    pub(crate) has_let_go: bool,
    /// Per item: its rows were asked for.
    pub(crate) was_asked: Vec<bool>,
    /// The first event came, or the bytes of an import.
    pub(crate) is_known: bool,
    pub(crate) is_exported: bool,
    pub(crate) is_aborted: bool,
    /// A step that it took part in never ran.
    pub(crate) is_failed: bool,
    pub(crate) is_over: bool,
}

impl Truth {
    pub(crate) fn new(request: &NewRequest) -> Self {
        let prompt = request.prompt.clone();
        let root = u64::from_le_bytes(request.block_root.0[..8].try_into().expect("eight bytes"));
        let mut chain: Vec<u64> = Vec::with_capacity(prompt.tokens.len());
        for (pos, token) in prompt.tokens.iter().enumerate() {
            let before = chain.last().copied().unwrap_or(root);
            chain.push(mix(before, mix(u64::from(*token), media_content(&prompt, pos))));
        }
        Self {
            id: request.id,
            first_choice: request.first_choice,
            n_answered: request.n_answered,
            stop: request.stop.clone(),
            needs_tokens: request.needs_tokens,
            choices: (0..request.n_choices).map(|_| Choice::default()).collect(),
            chain,
            has_rows: vec![false; prompt.items.len()],
            was_asked: vec![false; prompt.items.len()],
            prompt,
            is_known: false,
            holds_memory: false,
            has_let_go: false,
            is_exported: false,
            is_aborted: false,
            is_failed: false,
            is_over: false,
        }
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt.tokens.len()
    }

    pub(crate) fn n_media_rows(&self) -> usize {
        self.prompt.items.iter().map(|placed| placed.item.n_tokens as usize).sum()
    }

    /// The scheduler has been given all that it needs to run this one to its end.
    pub(crate) fn could_run(&self) -> bool {
        let mut items = self.was_asked.iter().zip(&self.has_rows);
        self.is_known && items.all(|(was_asked, has_rows)| *has_rows || !was_asked)
    }

    pub(crate) fn choice(&mut self, choice: u32) -> &mut Choice {
        &mut self.choices[(choice - self.first_choice) as usize]
    }

    /// The token at a position of a choice.
    pub(crate) fn token(&self, choice: u32, pos: usize) -> TokenId {
        let answer = &self.choices[(choice - self.first_choice) as usize].answer;
        let prompt = self.prompt.tokens.get(pos);
        prompt.copied().unwrap_or_else(|| answer[pos - self.prompt_len()])
    }

    /// What the KV slot of a position must hold.
    pub(crate) fn content(&self, choice: u32, pos: usize) -> u64 {
        let chain = &self.choices[(choice - self.first_choice) as usize].chain;
        self.chain.get(pos).copied().unwrap_or_else(|| chain[pos - self.prompt_len()])
    }

    /// The token of a choice at a position behind the prompt, given what the KV slot before it
    /// holds.
    pub(crate) fn next_token(&self, choice: u32, pos: usize, last: u64) -> TokenId {
        let idx = (self.n_answered + pos - self.prompt_len()) as u64;
        (mix(last, mix(u64::from(choice), idx)) % VOCAB) as TokenId
    }

    /// A token was answered.
    pub(crate) fn push(&mut self, choice: u32, token: TokenId) {
        let prompt_end = *self.chain.last().expect("prompts are not empty");
        let choice = self.choice(choice);
        let before = choice.chain.last().copied().unwrap_or(prompt_end);
        choice.chain.push(mix(before, mix(u64::from(token), 0)));
        choice.answer.push(token);
    }

    /// Why a choice ends after its last token, if it does.
    pub(crate) fn reason(&self, choice: u32, seq_len_max: usize) -> Option<FinishReason> {
        let Choice { answer, is_stopped, .. } =
            &self.choices[(choice - self.first_choice) as usize];
        if *is_stopped {
            return Some(FinishReason::Stop);
        }
        let n_answer = self.n_answered + answer.len();
        let may_stop = n_answer > self.stop.min_tokens as usize;
        if may_stop && self.stop.end_ids.contains(answer.last()?) {
            return Some(FinishReason::Stop);
        }
        let is_full = self.stop.max_tokens.is_some_and(|max| n_answer >= max as usize)
            || self.prompt_len() + answer.len() >= seq_len_max;
        is_full.then_some(FinishReason::Length)
    }
}

/// What a medium adds to the content of a position; 0 outside all media.
pub(crate) fn media_content(prompt: &ExpandedPrompt, pos: usize) -> u64 {
    let item = prompt.items.iter().find(|placed| placed.start <= pos && pos < placed.end());
    item.map_or(0, |placed| {
        mix(u64::from(placed.item.digest.0[0]), (pos - placed.start) as u64 + 1)
    })
}
