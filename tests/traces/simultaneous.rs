//! Traces 2, 3 and 4: two attempts at a time. Nothing fails in them, so nothing may be reset.

use crate::{
    leg::Kind,
    machine::{Failure, Verdict, rules::Rule},
    script::{A, B, End, KINDS, Read, Scene, Script, What::*, read},
};

/// Trace 2: Both half-close, both send `Migrate`. B's arrives first: A, designated, holds it. B
/// reads A's FIN, and then A's `Migrate`, to which it yields.
///
/// Without the rule A drops B's leg, and B sees that before A's `Migrate`: its attempt has failed,
/// and it is in doubt when it reads A's FIN.
fn both_start(kind: Kind, without: Option<Rule>) -> [Read; 2] {
    let mut s = Script::new(&Scene::verified(&[kind; 3], without));
    for (side, data) in [(A, "a"), (B, "b")] {
        s.writes(side, data);
        s.closes(side);
    }
    s.starts(A, 1);
    s.starts(B, 2);
    s.cross(2, B, &[Migrate { id: 3, from: 0 }]);
    if without.is_none() {
        assert!(s.holds(A, 3), "A holds B's Migrate");
        s.in_flight(2, A, &[]);
    } else {
        let end = s.drop_on(2);
        s.in_flight(2, A, &[end]);
        s.cross(2, A, &[end]);
        assert_eq!(s.failures(B), [(Failure::LegLost, true)]);
        assert!(s.in_doubt(B));
    }
    s.cross(0, A, &[Data("a"), Fin]);
    if without.is_none() {
        assert_eq!(s.reads(B), read("a", End::Not), "B holds A's FIN");
        s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
        s.accepts(B);
        assert_eq!(s.failures(B), [(Failure::Yielded, true)]);
        s.cross(1, B, &[Ack]);
        assert!(!s.holds(A, 3), "A's own was accepted: B's is dropped");
    }
    s.reads(B);
    s.all_arrives();
    if without.is_none() {
        assert_eq!([s.completed(A), s.completed(B)], [1, 1]);
        assert_eq!([s.status(A).id.0, s.status(B).id.0], [2, 2]);
    }
    [s.reads(A), s.reads(B)]
}

#[test]
fn trace_2_the_designated_peer_holds_the_others_migrate() {
    for kind in KINDS {
        let right = [read("b", End::Clean), read("a", End::Clean)];
        assert_eq!(both_start(kind, None), right);
        // B is told of a reset, though nothing failed.
        let [_, wrong] = both_start(kind, Some(Rule::DesignatedHolds));
        assert_eq!(wrong, read("a", End::Reset));
    }
}

/// Trace 3: Both send `Migrate`. B denies A's; it keeps its own. A reads the deny, then B's older
/// `Migrate`, and acks it. B half-closes; A reads that and switches, and writes on the leg. B reads
/// A's FIN on L0.
///
/// Without the rule B has dropped its own, so that A acks and switches to a dead leg. The model's
/// clean end is a reset by now, because a leg dropped so leaves B in doubt: a healthy stream's all
/// the same.
///
/// Returns what B reads.
fn one_denies(old: Kind, without: Option<Rule>) -> Read {
    // On QUIC, A would notice that the leg is dead.
    let legs = [old, Kind::Yamux, Kind::Yamux];
    let mut s = Script::new(&Scene::unverified(&legs, without));
    s.starts(A, 1);
    s.starts(B, 2);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.denies(B);
    s.in_flight(1, B, &[Deny, Fin]);
    let migrate = Migrate { id: 3, from: 0 };
    if without.is_none() {
        s.in_flight(2, B, &[migrate]);
        assert!(s.status(B).migrating, "B keeps its own");
    } else {
        s.in_flight(2, B, &[migrate, Rst]);
        assert!(!s.status(B).migrating);
    }
    s.cross(1, B, &[Deny]);
    assert_eq!(s.failures(A), [(Failure::Denied, true)]);
    s.cross(2, B, &[migrate]);
    s.accepts(A);
    s.in_flight(2, A, &[Ack]);
    s.closes(B);
    s.cross(0, B, &[Fin]);
    s.in_flight(0, A, &[Fin]);
    s.writes(A, "a");
    s.in_flight(2, A, &[Ack, Data("a")]);
    s.cross(0, A, &[Fin]);
    s.cross(2, A, &[Ack, Data("a")]);
    if s.reads(B).1 != End::Not {
        return s.reads(B);
    }
    assert_eq!(s.reads(B), read("a", End::Not), "A may still write");
    s.all_arrives();
    assert_eq!([s.completed(A), s.completed(B)], [1, 1]);
    assert_eq!(s.reads(A), read("", End::Clean));
    s.writes(A, "z");
    s.closes(A);
    s.all_arrives();
    s.reads(B)
}

#[test]
fn trace_3_who_denies_keeps_its_own_migrate() {
    for old in KINDS {
        assert_eq!(one_denies(old, None), read("az", End::Clean));
        let wrong = one_denies(old, Some(Rule::DenierKeepsItsOwn));
        assert_eq!(wrong, read("", End::Reset));
    }
}

/// Trace 4: B, half-closed, has acked A's `Migrate` and completes first; it starts the next
/// migration from the new ID. A still waits for L0's EOF, and holds B's `Migrate` until it has read
/// it.
///
/// Without the rule A drops it: B's attempt has failed, and it is in doubt when it reads A's FIN.
fn next_migration(kind: Kind, without: Option<Rule>) -> [Read; 2] {
    let mut s = Script::new(&Scene::verified(&[kind; 3], without));
    s.writes(B, "b");
    s.closes(B);
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.cross(1, B, &[Ack]);
    s.cross(0, A, &[Fin]);
    s.cross(1, A, &[Switched(0)]);
    assert_eq!([s.completed(A), s.completed(B)], [0, 1]);
    assert_eq!([s.status(A).id.0, s.status(B).id.0], [0, 2]);
    s.in_flight(0, B, &[Data("b"), Fin]);

    s.starts(B, 2);
    s.cross(2, B, &[Migrate { id: 3, from: 2 }]);
    if without.is_none() {
        assert!(s.holds(A, 3), "A holds it");
        s.in_flight(2, A, &[]);
    } else {
        let end = s.drop_on(2);
        s.in_flight(2, A, &[end]);
        s.cross(2, A, &[end]);
        assert_eq!(s.failures(B), [(Failure::LegLost, true)]);
        assert!(s.in_doubt(B));
    }
    s.writes(A, "a");
    s.closes(A);
    s.cross(1, A, &[Data("a"), Fin]);
    s.reads(B);
    if without.is_none() {
        s.cross(0, B, &[Data("b"), Fin]);
        assert_eq!(s.completed(A), 0, "A waits for B's count");
        s.cross(1, B, &[Switched(1)]);
        assert_eq!(s.completed(A), 1);
        s.accepts(A);
    }
    s.all_arrives();
    if without.is_none() {
        assert_eq!([s.completed(A), s.completed(B)], [2, 2]);
    }
    [s.reads(A), s.reads(B)]
}

#[test]
fn trace_4_a_migrate_for_a_stream_that_still_migrates_is_held() {
    for kind in KINDS {
        let right = [read("b", End::Clean), read("a", End::Clean)];
        assert_eq!(next_migration(kind, None), right);
        // At the normal end of a healthy stream.
        let [_, wrong] = next_migration(kind, Some(Rule::HoldWhileMigrating));
        assert_eq!(wrong, read("a", End::Reset));
    }
}

/// A's first `Migrate` is given up before B's policy has answered, and the second arrives before B hears
/// of that. What the policy says of the first is not said of the second.
fn late_verdict(kind: Kind, without: Option<Rule>) -> Script {
    let mut s = Script::new(&Scene::verified(&[kind; 3], without));
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    let first = s.question(B);
    s.times_out(A);
    s.starts(A, 2);
    s.cross(2, A, &[Migrate { id: 4, from: 0 }]);
    assert_ne!(s.question(B), first);
    s.says(B, first, Verdict::Deny);
    s
}

#[test]
fn a_verdict_is_about_what_was_asked() {
    for kind in KINDS {
        let mut s = late_verdict(kind, None);
        s.in_flight(2, B, &[]);
        s.accepts(B);
        s.all_arrives();
        assert_eq!([s.completed(A), s.completed(B)], [1, 1]);
        let s = late_verdict(kind, Some(Rule::VerdictsAreNamed));
        s.in_flight(2, B, &[Deny, Fin]);
    }
}
