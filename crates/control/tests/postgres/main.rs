//! What only PostgreSQL brings: several control planes on one database, and a database that goes away. The behaviour
//! that both databases share is in `tests/it`.

mod a_database_that_goes_away_comes_back;
mod a_foreign_database_is_left_alone;
mod replicas_share_one_database;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other suite, which uses the rest")]
mod support;
mod the_first_schema_is_brought_forward;
