//! What each kind of crash may leave, and how faults behave.
