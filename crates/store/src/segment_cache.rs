//! Cache of open segments, so that reading a body seldom opens a file.

use crate::journal::Segment;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Cache of the segments that bodies were read from recently.
#[derive(Debug)]
pub struct SegmentCache {
    journal_dir: PathBuf,
    open: Mutex<VecDeque<(u32, Arc<Segment>)>>,
}

impl SegmentCache {
    /// Creates an empty cache.
    pub fn new(journal_dir: PathBuf) -> Self {
        Self { journal_dir, open: Mutex::default() }
    }

    /// Returns segment `number`, opening it if necessary.
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

    /// Removes a segment that was rewritten or deleted; an open file would keep its disk space.
    pub fn evict(&self, number: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
    }
}

/// Maximum number of open segments.
const MAX_OPEN_SEGMENTS: usize = 16;
