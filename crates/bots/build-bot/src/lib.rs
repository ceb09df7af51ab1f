//! BuildBot builds a pushed commit.
