//! The control plane's behaviour: one fact per file, on a real SQLite in a directory of its own.

mod support;

mod a_commit_seen_early_is_no_other_history;
mod a_deadline_that_passed_while_down_is_caught_up;
mod a_repeated_request_returns_the_same_resource;
mod a_rotation_is_rolled_back;
mod a_rotation_publishes_the_new_version_first;
mod a_rotation_takes_the_place_of_another;
mod a_second_rotation_is_refused;
mod a_state_change_commits_with_audit_and_revisions;
mod a_version_is_accepted_from_its_time_on;
mod an_import_is_one_run_of_revisions;
mod another_history_is_gone;
mod bad_input_names_field_and_rule;
mod compromised_is_for_ever;
mod ended_versions_are_removed_after_their_time;
mod fifty_waiters_get_one_body;
mod heartbeats_are_later_and_shared;
mod no_plaintext_is_stored;
mod pages_join_end_to_end;
mod proxies_are_shown_as_they_report;
mod readers_accept_what_the_server_signs;
mod revoking_ends_at_once;
mod tokens_guard_both_listeners;
mod unusable_data_is_left_alone;
mod usage_counts_once;
mod waiters_do_not_hold_up_a_stop;
mod what_ended_is_reinstated;
