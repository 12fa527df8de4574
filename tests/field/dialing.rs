//! Opens that have to dial first.
