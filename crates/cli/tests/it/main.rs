//! The binary as its users run it: a real process, a real socket, a directory of its own.

mod fake_proxy;
#[path = "../../../control/tests/it/pki.rs"]
mod pki;
mod support;

mod a_backup_is_taken_and_restored;
mod a_change_waits_for_proxies;
mod a_key_lives_its_life;
mod a_key_rotates_itself;
mod a_leaked_list_is_revoked;
mod a_relay_says_how_it_stands;
mod a_relay_serves_from_its_own_disk;
mod a_ring_is_pushed;
mod a_seed_is_a_whole_ring;
mod an_image_needs_no_other_program;
mod audit_verify_names_the_first_bad_record;
mod both_kinds_of_http_are_spoken;
mod campaigns_are_made_and_followed;
mod each_request_is_a_line_of_the_log;
mod exit_codes_tell_scripts_what_happened;
mod https_is_spoken;
mod keys_are_imported_and_exported;
mod killed_without_warning_nothing_is_lost;
mod no_plaintext_is_logged;
mod policies_are_made_and_followed;
mod relays_get_through;
mod serve_says_why_it_cannot_start;
mod shells_and_readers_learn_every_command;
mod the_command_line_wins_over_the_environment;
mod the_database_fails_and_recovers;
mod the_operators_token_stays_at_home;
mod tokens_are_managed;
mod usage_is_shown;
mod what_waits_in_a_canary_is_told;
mod what_was_done_is_taken_back;
