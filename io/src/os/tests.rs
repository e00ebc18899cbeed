//! Locks, permissions, forks, and the pool of readers.
