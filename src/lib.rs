//! The keywheel filter.
