//! A process that dies after any commit, before, amid or after what the commit allowed to leave,
//! and starts again from its disk: the session forms and the protocol ends as if nothing happened.

use super::{Crash, World};

fn with_crash(parties: usize, crash: Option<Crash>) -> World {
    let mut world = World::new(parties, 3);
    world.crash = crash;
    world.invite();
    world.run();
    world
}

#[test]
fn any_party_may_die_after_any_commit() {
    let parties = 3;
    let calm = with_crash(parties, None);
    calm.assert_all_succeeded("calm");
    let mut crashes = 0;
    for who in 0..parties {
        for commit in 1..=calm.parties[who].commits {
            for effects in [0, 1, usize::MAX] {
                let crash = Crash {
                    who,
                    commit,
                    effects,
                };
                let world = with_crash(parties, Some(crash));
                assert!(
                    world.crashed || commit == calm.parties[who].commits,
                    "{crash:?}"
                );
                world.assert_all_succeeded(&format!("{crash:?}"));
                crashes += 1;
            }
        }
    }
    assert!(crashes > 100, "{crashes} crashes only");
}

#[test]
fn nothing_stays_behind_in_the_store_but_the_session() {
    let mut world = with_crash(3, None);
    for index in 0..3 {
        let local = world.parties[index].local.unwrap();
        let party = &mut world.parties[index];
        let step = party.node.probe_all(&local, &mut party.rng);
        world.settle(index, step);
    }
    world.run();
    for index in 0..3 {
        // The session, two peers, two pipes, one used-up label.
        assert_eq!(world.parties[index].store.len(), 6, "party {index}");
        let local = world.parties[index].local.unwrap();
        let party = &mut world.parties[index];
        let step = party.node.close(&local, &mut party.rng).unwrap();
        world.settle(index, step);
        assert!(world.parties[index].store.is_empty(), "party {index}");
    }
}
