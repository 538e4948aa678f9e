//! The binary as its users run it: a real process, a real socket, a directory of its own.

mod support;

mod a_key_lives_its_life;
mod both_kinds_of_http_are_spoken;
mod exit_codes_tell_scripts_what_happened;
mod killed_without_warning_nothing_is_lost;
mod no_plaintext_is_logged;
mod serve_says_why_it_cannot_start;
