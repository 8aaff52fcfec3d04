//! Stop strings in a text that comes in pieces.

/// Finds the first stop string to be complete, wherever the pieces are cut.
///
/// Text is held back only while it may be the beginning of a stop string, so never more of it than
/// the longest of them is long.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// What may be the beginning of a stop string.
    held: String,
}

/// What may be shown of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// This much, and more may come.
    Text(String),
    /// This much, then a stop string.
    Last(String),
}

impl StopStrings {
    /// Empty ones stop nothing.
    pub(crate) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// Takes more text and gives what may be shown of all that was taken so far.
    pub(crate) fn push(&mut self, text: String) -> Shown {
        if self.stops.is_empty() {
            return Shown::Text(text);
        }
        let mut all = std::mem::take(&mut self.held);
        all.push_str(&text);
        if let Some(start) = self.first(&all) {
            all.truncate(start);
            return Shown::Last(all);
        }
        self.held = all.split_off(self.held_from(&all));
        Shown::Text(all)
    }

    /// What was held back, now that nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string begins that is complete first; of two complete at once, the longer.
    fn first(&self, text: &str) -> Option<usize> {
        let found = self.stops.iter().filter_map(|stop| {
            let start = text.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        found.min().map(|(_, start)| start)
    }

    /// Where the longest end of `text` begins that a stop string may begin with.
    fn held_from(&self, text: &str) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = text.len().saturating_sub(longest - 1);
        let mut starts = text.char_indices().rev().map(|(start, _)| start);
        let candidates: Vec<_> = starts.by_ref().take_while(|&start| start >= earliest).collect();
        let may_stop =
            |start: usize| self.stops.iter().any(|stop| stop.starts_with(&text[start..]));
        candidates.into_iter().rev().find(|&start| may_stop(start)).unwrap_or(text.len())
    }
}
