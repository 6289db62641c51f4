//! What must hold in every run, whatever goes wrong. One rule a file.

pub mod both_ends_agree;
pub mod delivered_means_received;
pub mod honest_parties_agree;
pub mod in_order;
pub mod integrity_is_ok;
pub mod losses_are_told;
pub mod no_connection_fails;
pub mod nobody_hangs;
pub mod nothing_invented;
pub mod nothing_lost;
pub mod nothing_twice;
pub mod the_culprit_is_named;
pub mod work_is_bounded;
