use crate::journal::Segment;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The segments that messages were read from lately.
#[derive(Debug)]
pub struct SegmentCache {
    journal_dir: PathBuf,
    open: Mutex<VecDeque<(u32, Arc<Segment>)>>,
}

impl SegmentCache {
    /// None yet.
    pub fn new(journal_dir: PathBuf) -> Self {
        Self { journal_dir, open: Mutex::default() }
    }

    /// Segment `number`, opened if it must be.
    pub fn get_or_open(&self, number: u32) -> io::Result<Arc<Segment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, segment)) = open.iter().find(|(known, _)| *known == number) {
            return Ok(segment.clone());
        }
        let segment = Arc::new(Segment::open(&self.journal_dir, number, None)?);
        open.push_back((number, segment.clone()));
        if open.len() > MAX_OPEN_SEGMENTS {
            open.pop_front();
        }
        Ok(segment)
    }

    /// That one was rewritten or is gone; holding it open would keep its space.
    pub fn evict(&self, number: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
    }
}

/// Segments held open.
const MAX_OPEN_SEGMENTS: usize = 16;
