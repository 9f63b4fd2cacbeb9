use crate::journal::Segment;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The segments that messages were read from lately.
#[derive(Debug)]
pub struct Segments {
    journal: PathBuf,
    open: Mutex<VecDeque<(u32, Arc<Segment>)>>,
}

impl Segments {
    /// None yet.
    pub fn new(journal: PathBuf) -> Self {
        Self { journal, open: Mutex::default() }
    }

    /// Segment `number`, opened if it must be.
    pub fn segment(&self, number: u32) -> io::Result<Arc<Segment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, segment)) = open.iter().find(|(known, _)| *known == number) {
            return Ok(segment.clone());
        }
        let segment = Arc::new(Segment::open(&self.journal, number, None)?);
        open.push_back((number, segment.clone()));
        if open.len() > OPEN {
            open.pop_front();
        }
        Ok(segment)
    }

    /// That one was rewritten or is gone; holding it open would keep its space.
    pub fn forget(&self, number: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
    }
}

/// Segments held open.
const OPEN: usize = 16;
