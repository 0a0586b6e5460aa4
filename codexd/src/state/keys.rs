//! What the requests with an idempotency key came to.

use common::log::Seq;
use serde::{Deserialize, Serialize};

/// The keys of codexd.
pub type Keys = common::keys::Keys<Outcome>;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A turn that the child has not answered for.
    Asked,
    /// A turn that ended before anybody learned its name, or whether the child ever began it.
    Unknown,
    /// This session was made.
    Session(String),
    /// This turn was taken, or steered, with the event `seq`.
    Turn {
        /// Where.
        session_id: String,
        /// The child's name for it.
        turn_id: String,
        /// The event.
        seq: Seq,
    },
}
