//! Clocks that do not exist in a browser.
