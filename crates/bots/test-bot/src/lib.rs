//! TestBot runs the test suites of a build.
