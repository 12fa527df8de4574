//! Traces 9 and 10: what the initiator's count is for.

use crate::{
    leg::Kind,
    machine::{Failure, rules::Rule},
    script::{A, B, End, KINDS, Read, Scene, Script, What::*, key, read},
};

/// B has acked A's `Migrate`; A, which has not heard that, has given up.
fn times_out_after_the_ack(kind: Kind, without: Option<Rule>) -> Script {
    let mut s = Script::new(&Scene::verified(&[kind; 3], without));
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.in_flight(1, B, &[Ack]);
    s.times_out(A);
    assert_eq!(s.failures(A), [(Failure::TimedOut, true)]);
    s.in_flight(1, A, &[Cancelled, Fin]);
    assert!(s.in_doubt(A));
    assert!(s.status(B).migrating, "B waits for the commit");
    s
}

/// Trace 9, with what the table leaves open. A times out after B acked; then A half-closes, and its
/// FIN on L0 arrives before the cancellation on L1. B has read the old leg's end, but not the
/// count: it switches nothing. It reads the cancellation, and responds on L0. A tries again, and
/// the doubt ends.
///
/// Without the rule B takes the FIN for the switch, and goes to a leg that A has given up. It can
/// write nowhere any more, and A is in doubt when it reads B's FIN: the stream is dead. (As long as
/// nobody half-closes, the rule is not needed: only the old leg's end lets a responder switch.)
///
/// Returns what A reads.
fn cancelled(kind: Kind, without: Option<Rule>) -> Read {
    let mut s = times_out_after_the_ack(kind, without);
    s.writes(A, "a");
    s.closes(A);
    s.cross(0, A, &[Data("a"), Fin]);
    assert_eq!(s.reads(B), read("a", End::Not), "B has read the FIN");
    if without.is_none() {
        s.in_flight(0, B, &[]);
    } else {
        s.in_flight(0, B, &[Fin]);
        assert_eq!(
            s.status(B).connection,
            Some(key(1)),
            "B has switched, alone"
        );
    }
    s.cross(1, A, &[Cancelled, Fin]);
    assert_eq!(s.failures(B), [(Failure::Cancelled, false)]);
    assert_eq!(s.reads(B), read("a", End::Clean));
    if without.is_none() {
        s.writes(B, "b");
        s.in_flight(0, B, &[Data("b")]);
        s.starts(A, 2);
        s.cross(2, A, &[Migrate { id: 4, from: 0 }]);
        s.accepts(B);
        s.cross(2, B, &[Ack]);
        assert!(!s.in_doubt(A));
        s.closes(B);
    } else {
        assert!(!s.can_write(B), "L0 is closed, and there is no other");
    }
    s.all_arrives();
    s.reads(A)
}

#[test]
fn trace_9_the_count_is_the_commit() {
    for kind in KINDS {
        assert_eq!(cancelled(kind, None), read("b", End::Clean));
        // The stream is dead, though no connection is.
        let wrong = cancelled(kind, Some(Rule::CountIsCommit));
        assert_eq!(wrong, read("", End::Reset));
    }
}

/// Trace 9, as the table has it: nobody has half-closed. Both connections live, and so does the
/// stream.
#[test]
fn trace_9_nobody_has_half_closed() {
    for kind in KINDS {
        let mut s = times_out_after_the_ack(kind, None);
        s.writes(A, "a");
        s.writes(B, "b");
        s.cross(1, A, &[Cancelled, Fin]);
        assert_eq!(s.failures(B), [(Failure::Cancelled, false)]);
        s.in_flight(0, A, &[Data("a")]);
        s.in_flight(0, B, &[Data("b")]);
        s.all_arrives();
        assert_eq!(s.reads(A), read("b", End::Not));
        assert_eq!(s.reads(B), read("a", End::Not));
        assert_eq!([s.completed(A), s.completed(B)], [0, 0]);
        // An end that is read before one's own FIN is believed, if the empty write agrees.
        s.closes(B);
        s.all_arrives();
        assert!(s.in_doubt(A));
        assert_eq!(s.reads(A), read("b", End::Clean));
        s.closes(A);
        s.all_arrives();
        assert_eq!(s.reads(B), read("a", End::Clean));
    }
}

/// Trace 10: A has switched: its FIN is on L0, its count and more data on L1. B reads the FIN. C1,
/// whose legs are yamux-like, is lost before the count arrives: the new leg ends without one, which
/// aborts.
///
/// Without the rule this is the end of the stream.
fn lost_before_the_count(old: Kind, without: Option<Rule>) -> Read {
    let mut s = Script::new(&Scene::verified(&[old, Kind::Yamux], without));
    s.writes(A, "a");
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.cross(1, B, &[Ack]);
    s.writes(A, "lost");
    s.in_flight(0, A, &[Data("a"), Fin]);
    s.in_flight(1, A, &[Switched(1), Data("lost")]);
    s.cross(0, A, &[Data("a"), Fin]);
    assert_eq!(s.reads(B), read("a", End::Not));
    s.in_flight(0, B, &[]);
    assert!(s.status(B).migrating, "B waits for the count");
    s.lose(1);
    s.run(B);
    s.reads(B)
}

#[test]
fn trace_10_an_end_of_the_new_leg_before_the_count_aborts() {
    for old in KINDS {
        assert_eq!(lost_before_the_count(old, None), read("a", End::Reset));
        let wrong = lost_before_the_count(old, Some(Rule::EndBeforeCountAborts));
        assert_eq!(wrong, read("a", End::Clean));
    }
}
