//! The behaviour's books: what is counted, remembered, timed and given back.
