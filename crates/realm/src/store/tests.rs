use junto_vault::{Genesis, RealmId, Seconds};
use openraft::LeaderId;

use super::*;
use crate::Proposal;

fn store() -> Store {
    let genesis = Genesis {
        realm: RealmId([1; 32]),
        secret: Zeroizing::new([2; 32]),
        tenants: [].into(),
        records_max: 1,
        time: Seconds(0),
    };
    Store::new(Realm::new(genesis).unwrap())
}

fn id(term: u64, leader: u8, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, Name([leader; 32])), index)
}

fn blank(log_id: LogId) -> Entry<Types> {
    let payload = EntryPayload::Blank;
    Entry { log_id, payload }
}

fn words(log_id: LogId, words: &[u8]) -> Entry<Types> {
    let words = Zeroizing::new(words.to_vec());
    let payload = EntryPayload::Normal(Proposal(Arc::new(words)));
    Entry { log_id, payload }
}

fn tick(log_id: LogId, reading: u64) -> Entry<Types> {
    words(log_id, &RealmEntry::tick(Seconds(reading)).to_bytes())
}

impl Store {
    fn append_all(&self, entries: impl IntoIterator<Item = Entry<Types>>) {
        self.change(|memory| {
            for entry in entries {
                memory.log.append(entry);
            }
        });
    }

    async fn follow(&mut self, term: u64, leader: u8) {
        let vote = Vote::new_committed(term, Name([leader; 32]));
        self.save_vote(&vote).await.unwrap();
    }

    fn says(&self, id: LogId) -> Option<Head> {
        self.memory().held(&id)
    }
}

/// What a follower has of an earlier reign may say what the leader's entry says, at the same number among those that say
/// anything, and will be cut off nevertheless.
#[tokio::test]
async fn the_same_words_of_an_earlier_reign_are_not_held() {
    let (mut follower, mut leader) = (store(), store());
    follower.append_all([blank(id(1, 1, 0)), tick(id(1, 1, 1), 7)]);
    leader.append_all([blank(id(2, 3, 0)), blank(id(3, 2, 1)), tick(id(3, 2, 2), 7)]);
    leader.follow(3, 2).await;
    follower.follow(3, 2).await;
    assert_eq!(follower.says(id(3, 2, 2)), None);
    // Nor is what stands at the leader's place, under another ballot.
    follower.append_all([tick(id(1, 1, 2), 7)]);
    assert_eq!(follower.says(id(3, 2, 2)), None);
    // Under the leader's ballot at the leader's place, upon another log: it is told apart by the digest, since a leader
    // that was turned back makes two logs with one ballot.
    follower.truncate(id(1, 1, 1)).await.unwrap();
    follower.append_all([blank(id(3, 2, 1)), tick(id(3, 2, 2), 7)]);
    let other = follower.says(id(3, 2, 2));
    assert!(other.is_some() && other != leader.says(id(3, 2, 2)));
    follower.truncate(id(1, 1, 0)).await.unwrap();
    follower.append_all(leader.memory().log.range(..));
    assert_eq!(follower.says(id(3, 2, 2)), leader.says(id(3, 2, 2)));
    // Other words in place of the leader's are not it either.
    follower.truncate(id(3, 2, 2)).await.unwrap();
    follower.append_all([tick(id(3, 2, 2), 8)]);
    let other = follower.says(id(3, 2, 2));
    assert!(other.is_some() && other != leader.says(id(3, 2, 2)));
}

/// Whoever has left a leader, or has only voted for one, acknowledges nothing.
#[tokio::test]
async fn only_who_follows_the_leader_acknowledges() {
    let mut follower = store();
    follower.append_all([tick(id(1, 1, 0), 7)]);
    let voted = Vote::new(1, Name([1; 32]));
    follower.save_vote(&voted).await.unwrap();
    assert_eq!(follower.says(id(1, 1, 0)), None);
    follower.follow(1, 1).await;
    assert!(follower.says(id(1, 1, 0)).is_some());
    follower.follow(2, 2).await;
    assert_eq!(follower.says(id(1, 1, 0)), None);
}

/// A replica that got the realm in place of the log holds what comes after it, whether or not it has applied that, in
/// whatever order consensus gives up the log and has the snapshot read, and also after it has given up more.
#[tokio::test]
async fn who_got_a_snapshot_holds_what_follows_it() {
    for read_late in [true, false] {
        let (mut leader, mut follower) = (store(), store());
        leader.follow(1, 1).await;
        follower.follow(1, 1).await;
        let log: Vec<_> = (0..12).map(|index| tick(id(1, 1, index), index)).collect();
        leader.append_all(log.clone());
        leader.apply(log[..8].to_vec()).await.unwrap();
        follower.append_all(log[..3].to_vec());
        follower.apply(log[..3].to_vec()).await.unwrap();
        let Snapshot { meta, snapshot } = leader.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(meta.last_log_id, Some(id(1, 1, 7)));
        if read_late {
            follower.purge(id(1, 1, 7)).await.unwrap();
            follower.append_all(log[8..10].to_vec());
            assert_eq!(follower.says(id(1, 1, 9)), None);
            follower.install_snapshot(&meta, snapshot).await.unwrap();
        } else {
            follower.install_snapshot(&meta, snapshot).await.unwrap();
            follower.purge(id(1, 1, 7)).await.unwrap();
            follower.append_all(log[8..10].to_vec());
        }
        let same = |follower: &Store, index| {
            let said = follower.says(id(1, 1, index));
            assert!(said.is_some() && said == leader.says(id(1, 1, index)));
        };
        for index in 7..10 {
            same(&follower, index);
        }
        follower.apply(log[8..9].to_vec()).await.unwrap();
        follower.purge(id(1, 1, 8)).await.unwrap();
        follower.append_all(log[10..].to_vec());
        for index in 8..12 {
            same(&follower, index);
        }
        // What it gives to another one is right too.
        let mut third = store();
        third.follow(1, 1).await;
        let Snapshot { meta, snapshot } = follower.get_current_snapshot().await.unwrap().unwrap();
        third.install_snapshot(&meta, snapshot).await.unwrap();
        third.append_all(log[9..].to_vec());
        same(&third, 11);
    }
}

/// A leader that asks about an entry which the follower has applied and given up meanwhile is not kept waiting; but what a snapshot
/// took the place of may have been another log, and is not spoken of any more.
#[tokio::test]
async fn who_has_given_an_entry_up_still_says_that_it_holds_it() {
    let mut follower = store();
    follower.follow(1, 1).await;
    let log: Vec<_> = (0..9).map(|index| tick(id(1, 1, index), index)).collect();
    follower.append_all(log[..6].to_vec());
    let before: Vec<_> = (0..6).map(|index| follower.says(id(1, 1, index))).collect();
    follower.apply(log[..6].to_vec()).await.unwrap();
    follower.purge(id(1, 1, 2)).await.unwrap();
    follower.purge(id(1, 1, 5)).await.unwrap();
    let after: Vec<_> = (0..6).map(|index| follower.says(id(1, 1, index))).collect();
    assert!(before.iter().all(Option::is_some));
    assert_eq!(after, before);
    assert_eq!(follower.memory().entries(), 0);
    // Not of another reign, nor at another place.
    assert_eq!(follower.says(id(1, 2, 3)), None);
    assert_eq!(follower.says(id(1, 1, 6)), None);
    let mut leader = store();
    leader.follow(1, 1).await;
    leader.append_all(log.clone());
    leader.apply(log.clone()).await.unwrap();
    let Snapshot { meta, snapshot } = leader.get_current_snapshot().await.unwrap().unwrap();
    follower.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(follower.says(id(1, 1, 3)), None);
    assert_eq!(follower.says(id(1, 1, 8)), leader.says(id(1, 1, 8)));
}

/// What cannot be read is an entry like another, at each replica alike, and changes nothing.
#[tokio::test]
async fn what_cannot_be_read_stops_nobody() {
    let (mut one, mut other) = (store(), store());
    let log = [words(id(1, 1, 0), b"no entry"), tick(id(1, 1, 1), 30)];
    for store in [&mut one, &mut other] {
        let out = store.apply(log.clone()).await.unwrap();
        assert!(out[0].0.is_none() && out[1].0.is_some());
        assert_eq!(store.memory().realm.position().sequence, 2);
        assert_eq!(store.memory().realm.time(), Seconds(30));
    }
    assert_eq!(*one.memory().snapshot(), *other.memory().snapshot());
}

#[tokio::test]
async fn a_cut_snapshot_is_refused() {
    let mut leader = store();
    leader.apply([tick(id(1, 1, 0), 1)]).await.unwrap();
    let Snapshot { meta, snapshot } = leader.get_current_snapshot().await.unwrap().unwrap();
    for length in [0, 31, 32, snapshot.len() - 1] {
        let cut = Box::new(Zeroizing::new(snapshot[..length].to_vec()));
        assert!(store().install_snapshot(&meta, cut).await.is_err());
    }
}
