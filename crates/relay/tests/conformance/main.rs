//! The protocol, case by case, through real TLS against a running relay: once with every store.
//!
//! A case is a function of a [`World`]; `cases!` makes a test of it for each store. What the cases
//! demand is in the protocol's documents (reference §3, §4) and not in this relay's code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod authorisation;
mod blocking;
mod creating;
mod delivery;
mod links;
mod malformed;
mod notifications;
mod restart;
mod securing;
mod services;
#[path = "../site/mod.rs"]
mod site;
mod work;
mod world;

macro_rules! cases {
    ($start:path; $($file:ident: $($case:ident)*;)*) => {
        $(mod $file {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let world = $start().await;
                    crate::site::in_time(crate::$file::$case(world)).await;
                }
            )*
        })*
    };
}

macro_rules! all_cases {
    ($start:path) => {
        cases! { $start;
            creating:
                ids_are_random_and_the_mode_is_told
                subscribing_at_once_or_later
                a_password_is_demanded_and_compared
                every_kind_of_key_may_own_a_queue
                deleting_ends_everything;
            securing:
                by_the_recipient
                by_the_sender_in_mode_m_only
                through_a_link_in_mode_m_only
                a_key_is_set_once
                owners_replace_each_other
                owners_are_for_contact_queues_and_bounded;
            links:
                one_time_data_comes_with_the_queue_and_goes_with_the_first_message
                contact_data_is_open_to_readers
                sender_ids_follow_from_the_correlation_id
                names_belong_to_one_queue
                data_may_change_but_not_its_fixed_part
                deleting_the_data_frees_its_name
                the_largest_data_fits;
            notifications:
                a_flagged_message_notifies_and_others_do_not
                what_came_before_is_told_on_subscribing
                the_last_notification_server_wins
                credentials_come_with_the_queue
                replaced_and_deleted_notifiers_are_told
                deleting_the_queue_ends_the_notifier;
            delivery:
                messages_keep_their_order
                one_message_waits_for_its_acknowledgement
                subscriptions_are_handed_over
                get_and_sub_exclude_each_other
                a_full_queue_says_so_and_opens_when_drained
                old_messages_go_when_new_ones_come
                old_messages_go_by_themselves
                flags_and_time_reach_the_recipient
                a_block_of_commands_is_answered_in_order
                names_are_not_resolved;
            services:
                a_certificate_is_one_service_for_ever
                hello_and_tls_must_show_the_same
                one_certificate_has_one_role
                a_service_signs_for_its_queues_and_gets_everything_again
                queues_go_to_a_service_and_come_back
                the_last_connection_of_a_service_reads
                notification_servers_subscribe_at_once
                roles_and_signatures_are_demanded
                hashes_begin_with_version_19
                services_and_their_queues_are_bounded
                many_queues_are_delivered_in_pieces_while_others_are_served;
            authorisation:
                every_kind_of_key_on_both_sides
                wrong_keys_and_unknown_names_look_the_same
                a_queue_that_is_off_looks_like_none
                entities_of_one_party_mean_nothing_to_another
                signatures_do_not_travel_between_sessions;
            work:
                unknown_names_cost_what_wrong_keys_cost
                a_queue_that_is_off_costs_what_an_unknown_one_costs;
            malformed:
                commands_get_their_exact_error
                transmissions_that_do_not_parse_get_block;
            blocking:
                senders_and_owners_are_told_with_the_reason
                notices_begin_with_version_18
                a_blocked_queue_can_be_left_and_unblocked
                what_waits_is_delivered_when_its_queue_is_unblocked;
        }
    };
}

mod memory {
    all_cases! { crate::world::in_memory }
}

mod journal {
    all_cases! { crate::world::with_journal }

    cases! { crate::world::with_journal;
        restart:
            queues_and_messages_come_back
            links_come_back
            owners_come_back
            notifiers_come_back_and_tell_what_waits
            blocked_queues_stay_blocked
            names_stay_taken_and_free_ones_free
            services_come_back;
    }
}
