//! Sessions for multiparty computation: roster, safety code, rounds, reliable broadcast, blame.
