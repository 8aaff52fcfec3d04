//! What the engine keeps of a request beside the scheduler: its sink, and what a step needs of it.

use crate::request::{ImportRequest, SeqEvent, SeqRequest, SeqSink};
use models::Positions;
use scheduler::{NewImport, NewRequest, StopRule, Until};
use std::sync::Arc;
use tensor::SlabRange;
use types::TokenId;
use types::prompt::PlacedItem;
use types::sampling::SamplingParams;

/// A request that is queued or running.
pub(crate) struct Live {
    pub(crate) sink: SeqSink,
    pub(crate) sampling: SamplingParams,
    /// Tokens that may not come before `min_tokens`.
    pub(crate) end_ids: Vec<TokenId>,
    pub(crate) positions: Positions,
    pub(crate) items: Vec<PlacedItem>,
    /// Per item, its rows while they are at hand.
    pub(crate) rows: Vec<Option<Arc<SlabRange>>>,
    /// Length of the prompt without what is already answer.
    pub(crate) question_len: usize,
}

impl Live {
    pub(crate) fn submitted(
        request: &SeqRequest,
        positions: Positions,
        eos: &[TokenId],
        sink: SeqSink,
    ) -> Self {
        let items = request.prompt.items.clone();
        Self {
            sink,
            end_ids: [eos, &request.sampling.stop_token_ids].concat(),
            sampling: request.sampling.clone(),
            positions,
            rows: vec![None; items.len()],
            items,
            question_len: request.prompt.tokens.len().saturating_sub(request.n_answered),
        }
    }

    pub(crate) fn imported(request: &ImportRequest, eos: &[TokenId], sink: SeqSink) -> Self {
        Self {
            sink,
            end_ids: [eos, &request.sampling.stop_token_ids].concat(),
            sampling: request.sampling.clone(),
            // No row of the prompt is ever computed here.
            positions: Positions { rows: Vec::new(), delta: request.positions_delta },
            items: Vec::new(),
            rows: Vec::new(),
            question_len: request.prompt.tokens.len().saturating_sub(request.n_answered),
        }
    }

    pub(crate) fn tell(&mut self, event: SeqEvent) {
        (self.sink)(event);
    }
}

/// The scheduler's view of a submitted request.
pub(crate) fn new_request(request: SeqRequest, eos: &[TokenId]) -> NewRequest {
    NewRequest {
        id: request.id,
        prompt: request.prompt,
        block_root: request.block_root,
        stop: stop_rule(&request.sampling, eos),
        needs_tokens: has_penalties(&request.sampling),
        n_choices: request.sampling.n,
        first_choice: request.first_choice,
        n_answered: request.n_answered,
        until: request.until,
        priority: request.priority,
    }
}

/// The scheduler's view of an import.
pub(crate) fn new_import(request: ImportRequest, eos: &[TokenId]) -> NewImport {
    NewImport {
        first_tokens: request.first_tokens,
        request: NewRequest {
            id: request.id,
            prompt: request.prompt,
            block_root: request.block_root,
            stop: stop_rule(&request.sampling, eos),
            needs_tokens: has_penalties(&request.sampling),
            n_choices: request.sampling.n,
            first_choice: request.first_choice,
            n_answered: request.n_answered,
            until: Until::End,
            priority: request.priority,
        },
    }
}

/// Whether tokens change the odds of those behind them other than through the model.
fn has_penalties(sampling: &SamplingParams) -> bool {
    sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
}

fn stop_rule(sampling: &SamplingParams, eos: &[TokenId]) -> StopRule {
    let eos = if sampling.ignore_eos { &[] } else { eos };
    StopRule {
        end_ids: [eos, &sampling.stop_token_ids].concat(),
        min_tokens: sampling.min_tokens,
        max_tokens: sampling.max_tokens,
    }
}
