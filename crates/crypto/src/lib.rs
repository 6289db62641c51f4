//! Core: key newtypes, key agreement, KDFs, AEADs and secret types shared by every Junto protocol.
