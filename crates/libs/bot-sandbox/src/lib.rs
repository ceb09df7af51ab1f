//! Starts what bots run: commands that die with their caller, and applications that outlive it. Limits are mandatory.
