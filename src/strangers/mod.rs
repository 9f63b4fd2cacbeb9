//! What is remembered of strangers: who is counted as one, and for how long. They choose how many they are, so what is
//! remembered of them is bounded.

mod origin;
mod refusals;
mod register;

pub use origin::Origin;
pub use refusals::{Refusal, RefusalLog};
pub use register::{Fades, MOST, Register};
