//! Traces 7 and 11 to 15: an attempt that failed on one side, and not on the other. Each ends in
//! bytes that are never read; with the rule A, or in 13 B, is told, and without it is not.

use crate::{
    leg::Kind,
    machine::{Abort, Failure, rules::Rule},
    script::{A, B, End, KINDS, Read, Scene, Script, What::*, read},
    stream::Note,
};

/// Trace 7: A sends `Migrate` and times out, its write side open; then it half-closes. B acks late,
/// reads A's FIN, switches to the dead leg and writes there. A reads B's FIN on L0.
fn acks_late(old: Kind, without: Option<Rule>) -> Read {
    // On QUIC, B would notice that the leg is dead before it could ack.
    let legs = [old, Kind::Yamux];
    let mut s = Script::new(&Scene::unverified(&legs, without));
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.times_out(A);
    assert_eq!(s.failures(A), [(Failure::TimedOut, true)]);
    assert!(s.in_doubt(A));
    s.in_flight(1, A, &[Rst]);
    s.in_flight(0, A, &[]);
    s.closes(A);
    s.in_flight(0, A, &[Fin]);
    s.accepts(B);
    s.in_flight(1, B, &[Ack]);
    s.cross(0, A, &[Fin]);
    assert_eq!(s.completed(B), 1, "B has switched");
    s.writes(B, "lost");
    s.in_flight(1, B, &[Ack, Data("lost")]);
    s.cross(0, B, &[Fin]);
    s.reads(A)
}

#[test]
fn trace_7_an_eof_after_a_failed_attempt_is_judged_when_it_is_read() {
    for old in KINDS {
        assert_eq!(acks_late(old, None), read("", End::Reset));
        let wrong = acks_late(old, Some(Rule::DoubtAfterFin));
        assert_eq!(wrong, read("", End::Clean));
    }
}

/// Trace 11: A half-closes; its first `Migrate` times out. B denies the second, then accepts the
/// older first, reads A's FIN and switches to the dead leg. A reads B's FIN.
///
/// Between two peers that conform this cannot be seen: who has denied a stream once denies every
/// later `Migrate` for it. So B is one that forgets; what a conforming B does is asserted as well.
fn denies_then_accepts(old: Kind, without: [Option<Rule>; 2]) -> Read {
    let legs = [old, Kind::Yamux, Kind::Yamux];
    let scene = Scene {
        without,
        ..Scene::unverified(&legs, None)
    };
    let mut s = Script::new(&scene);
    s.closes(A);
    s.starts(A, 1);
    s.times_out(A);
    assert!(s.in_doubt(A));
    s.in_flight(1, A, &[Migrate { id: 2, from: 0 }, Rst]);
    s.starts(A, 2);
    s.cross(2, A, &[Migrate { id: 4, from: 0 }]);
    s.denies(B);
    s.cross(2, B, &[Deny, Fin]);
    let failures = [(Failure::TimedOut, true), (Failure::Denied, true)];
    assert_eq!(s.failures(A), failures);
    assert_eq!(s.in_doubt(A), without[A].is_none());

    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    if without[B].is_some() {
        s.accepts(B);
        s.in_flight(1, B, &[Ack]);
        s.cross(0, A, &[Fin]);
        assert_eq!(s.completed(B), 1, "B has switched");
        s.writes(B, "lost");
        s.in_flight(1, B, &[Ack, Data("lost")]);
    } else {
        assert!(!s.asked(B), "B does not think again");
        s.in_flight(1, B, &[Deny, Fin]);
        s.cross(0, A, &[Fin]);
        assert_eq!(s.reads(B), read("", End::Clean));
        s.writes(B, "b");
        s.closes(B);
        s.cross(0, B, &[Data("b")]);
    }
    s.cross(0, B, &[Fin]);
    s.reads(A)
}

#[test]
fn trace_11_a_deny_does_not_end_an_older_attempts_doubt() {
    for old in KINDS {
        let forgets = Some(Rule::DenyIsForGood);
        let right = denies_then_accepts(old, [None, forgets]);
        assert_eq!(right, read("", End::Reset));
        let without = Some(Rule::DenyKeepsDoubt);
        let wrong = denies_then_accepts(old, [without, forgets]);
        assert_eq!(wrong, read("", End::Clean));
        // With a B that conforms the rule costs a false reset, but A cannot know that.
        let conforms = denies_then_accepts(old, [None, None]);
        assert_eq!(conforms, read("b", End::Reset));
    }
}

/// Trace 12: A half-closes and sends leg 1; B sends leg 2, yields, and acks leg 1. C1 is lost with
/// that ack. A, in doubt, acks leg 2, and reads that it is cancelled. B finds out that C1 is lost,
/// and aborts: its reset overtakes what it had written. A reads it as an EOF.
fn acks_in_doubt(without: Option<Rule>) -> Read {
    let legs = [Kind::Yamux; 3];
    let mut s = Script::new(&Scene::verified(&legs, without));
    s.writes(B, "lost");
    s.closes(A);
    s.starts(A, 1);
    s.starts(B, 2);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    assert_eq!(s.failures(B), [(Failure::Yielded, true)]);
    s.in_flight(1, B, &[Ack]);
    let migrate = Migrate { id: 3, from: 0 };
    s.in_flight(2, B, &[migrate, Cancelled, Fin]);
    s.lose(1);
    s.run(A);
    assert_eq!(s.failures(A), [(Failure::LegLost, true)]);
    assert!(s.in_doubt(A));

    s.cross(2, B, &[migrate]);
    s.accepts(A);
    s.in_flight(2, A, &[Ack]);
    assert_eq!(s.in_doubt(A), without.is_none());
    s.cross(2, B, &[Cancelled, Fin]);
    let failures = [(Failure::LegLost, true), (Failure::Cancelled, false)];
    assert_eq!(s.failures(A), failures);
    assert_eq!(s.in_doubt(A), without.is_none());
    s.run(B);
    assert!(s.notes(B).contains(&Note::Over(Err(Abort::LegLost))));
    s.in_flight(0, B, &[Data("lost"), Rst]);
    s.overtakes(0, B);
    s.reads(A)
}

#[test]
fn trace_12_doubt_ends_by_reading_an_accepting_ack_not_by_writing_one() {
    assert_eq!(acks_in_doubt(None), read("", End::Reset));
    let wrong = acks_in_doubt(Some(Rule::AckKeepsDoubt));
    assert_eq!(wrong, read("", End::Clean));
}

/// Trace 13: A sends leg 1 and times out. B half-closes and sends leg 2; A acks it. B yields to the
/// old leg 1 and acks it. A reads the end of leg 2 and aborts. B reads that leg 1 is cancelled, and
/// then A's reset, which has overtaken what A had written, as an EOF.
fn yields(without: Option<Rule>) -> Read {
    let legs = [Kind::Yamux; 3];
    let scene = Scene {
        // Only A says on a leg that its attempt is cancelled.
        known: [true, false],
        ..Scene::verified(&legs, without)
    };
    let mut s = Script::new(&scene);
    s.writes(A, "lost");
    s.starts(A, 1);
    s.times_out(A);
    let migrate = Migrate { id: 2, from: 0 };
    s.in_flight(1, A, &[migrate, Cancelled, Fin]);
    s.closes(B);
    s.starts(B, 2);
    s.cross(2, B, &[Migrate { id: 3, from: 0 }]);
    s.accepts(A);
    s.in_flight(2, A, &[Ack]);
    assert!(s.status(A).migrating);

    s.cross(1, A, &[migrate]);
    s.accepts(B);
    assert_eq!(s.failures(B), [(Failure::Yielded, true)]);
    assert_eq!(s.in_doubt(B), without.is_none());
    s.in_flight(1, B, &[Ack]);
    s.cross(2, B, &[Rst]);
    assert!(s.notes(A).contains(&Note::Over(Err(Abort::LegLost))));
    s.cross(1, A, &[Cancelled, Fin]);
    let failures = [(Failure::Yielded, true), (Failure::Cancelled, false)];
    assert_eq!(s.failures(B), failures);
    s.in_flight(0, A, &[Data("lost"), Rst]);
    s.overtakes(0, A);
    s.reads(B)
}

#[test]
fn trace_13_yielding_is_a_failed_attempt_too() {
    assert_eq!(yields(None), read("", End::Reset));
    let wrong = yields(Some(Rule::YieldIsFailure));
    assert_eq!(wrong, read("", End::Clean));
}

/// Trace 14: A sends leg 1, B acks, and C1 is lost with the ack. B aborts, and its drop of L0 is a
/// FIN. A, its write side open, reads it; the empty write tells.
fn quic_drop_in_doubt(new: Kind, without: Option<Rule>) -> Read {
    let legs = [Kind::Quic, new];
    let mut s = Script::new(&Scene::verified(&legs, without));
    s.writes(B, "b");
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.in_flight(1, B, &[Ack]);
    s.lose(1);
    s.run(A);
    assert_eq!(s.failures(A), [(Failure::LegLost, true)]);
    assert!(s.in_doubt(A));
    s.run(B);
    // B's application has more to write, and cannot.
    assert!(s.notes(B).contains(&Note::Over(Err(Abort::LegLost))));
    assert_eq!(s.reads(B), read("", End::Reset));
    s.in_flight(0, B, &[Data("b"), Fin]);
    s.in_flight(0, A, &[]);
    s.cross(0, B, &[Data("b"), Fin]);
    s.reads(A)
}

#[test]
fn trace_14_in_doubt_the_empty_write_is_mandatory_on_quic_as_well() {
    for new in KINDS {
        assert_eq!(quic_drop_in_doubt(new, None), read("b", End::Reset));
        let wrong = quic_drop_in_doubt(new, Some(Rule::DoubtNeedsProof));
        assert_eq!(wrong, read("b", End::Clean));
    }
}

/// Trace 15: A half-closes, sends leg 1 and times out. B, which does not verify, sends leg 2: A
/// drops it. Without the rule A acks it. B yields to the dead leg 1, switches to it and writes
/// there. A reads B's FIN, and, if it has acked, leg 2's RST as an EOF.
fn acks_one_that_does_not_verify(old: Kind, without: Option<Rule>) -> Read {
    let legs = [old, Kind::Yamux, Kind::Yamux];
    let mut s = Script::new(&Scene::unverified(&legs, without));
    s.closes(A);
    s.starts(A, 1);
    s.times_out(A);
    assert!(s.in_doubt(A));
    s.in_flight(1, A, &[Migrate { id: 2, from: 0 }, Rst]);
    s.starts(B, 2);
    s.cross(2, B, &[Migrate { id: 3, from: 0 }]);
    if without.is_none() {
        assert!(!s.asked(A));
        s.in_flight(2, A, &[Rst]);
    } else {
        s.accepts(A);
        s.in_flight(2, A, &[Ack]);
    }
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    assert_eq!(s.failures(B), [(Failure::Yielded, true)]);
    s.cross(0, A, &[Fin]);
    assert_eq!(s.completed(B), 1, "B has switched");
    s.writes(B, "lost");
    s.in_flight(1, B, &[Ack, Data("lost")]);
    s.cross(0, B, &[Fin]);
    s.cross(2, B, &[Rst]);
    s.reads(A)
}

#[test]
fn trace_15_in_doubt_the_migrate_of_a_peer_that_does_not_verify_is_dropped() {
    for old in KINDS {
        let right = acks_one_that_does_not_verify(old, None);
        assert_eq!(right, read("", End::Reset));
        let without = Some(Rule::DoubtNeedsVerify);
        let wrong = acks_one_that_does_not_verify(old, without);
        assert_eq!(wrong, read("", End::Clean));
    }
}
