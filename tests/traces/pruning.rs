//! Traces 1 and 8: what a pruned connection costs. Both rules live outside of the stream, in
//! `src/behaviour`: here the script obeys them or does not, by what the stream tells of itself.
//! With swarms: `tests/swarm/prune.rs`, `tests/swarm/returns.rs`.

use crate::{
    leg::Kind,
    machine::Failure,
    script::{A, B, End, KINDS, Read, Scene, Script, What::*, key, read},
    stream::Note,
};

/// Trace 1: A writes 0 and sends `Migrate`; B acks; A switches: 0 and its FIN are on L0. B's
/// application half-closes: its FIN is on L0 before it has read anything. A reads that FIN and has
/// completed. It closes C0: at once, or when the stream says that something has been read on the
/// new leg.
///
/// Returns what B reads.
fn prune(old: Kind, new: Kind, once_confirmed: bool) -> Read {
    let mut s = Script::new(&Scene::unverified(&[old, new], None));
    s.writes(A, "0");
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.cross(1, B, &[Ack]);
    s.in_flight(0, A, &[Data("0"), Fin]);
    s.closes(B);
    s.cross(0, B, &[Fin]);
    assert_eq!(s.completed(A), 1, "for A, L0 has ended in both directions");
    assert_eq!(s.status(B).received, 0, "B has read nothing");
    s.in_flight(0, A, &[Data("0"), Fin]);
    s.writes(A, "1");
    s.closes(A);

    let completed = s.notes(A).iter().find_map(|note| match note {
        Note::Completed(completed) => Some(completed.confirmed),
        _ => None,
    });
    let confirmed = |s: &Script| s.notes(A).contains(&Note::Confirmed { from: key(0) });
    assert_eq!(completed, Some(false), "A must not close C0");
    assert!(!confirmed(&s), "nor later");
    if once_confirmed {
        s.cross(0, A, &[Data("0"), Fin]);
        s.in_flight(1, B, &[Fin]);
        assert!(!confirmed(&s), "nor while B's end is in flight");
        s.cross(1, B, &[Fin]);
        assert_eq!(s.reads(A), read("", End::Clean));
        assert!(confirmed(&s), "A may close C0 now");
    }
    s.lose(0);
    s.run(B);
    s.all_arrives();
    s.reads(B)
}

#[test]
fn trace_1_prune_only_after_something_was_read_on_the_new_leg() {
    for new in KINDS {
        for old in KINDS {
            assert_eq!(prune(old, new, true), read("01", End::Clean));
        }
        // Byte 0 is lost, and no failure was injected.
        assert_eq!(prune(Kind::Yamux, new, false), read("1", End::Clean));
        assert_eq!(prune(Kind::Quic, new, false), read("", End::Reset));
    }
}

/// Trace 8: The stream has left C0 for C1 on A's initiative, and A may prune C0. It does so while
/// B, which returns, starts a migration onto C0 (L2 here): its `Migrate` never arrives. Then A
/// half-closes; B had done so before.
///
/// Returns what B reads.
fn return_to_a_pruned_connection(old: Kind, new: Kind, returns: bool) -> Read {
    let mut s = Script::new(&Scene::verified(&[old, new, old], None));
    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    s.accepts(B);
    s.all_arrives();
    assert_eq!([s.completed(A), s.completed(B)], [1, 1]);
    let may_prune = s.notes(A).iter().any(|note| match note {
        Note::Completed(completed) => completed.confirmed,
        note => *note == Note::Confirmed { from: key(0) },
    });
    assert!(may_prune, "A may close C0");

    s.closes(B);
    if returns {
        s.starts(B, 2);
        s.in_flight(2, B, &[Migrate { id: 3, from: 2 }]);
        s.lose(2);
        s.run(B);
        assert_eq!(s.failures(B), [(Failure::LegLost, true)]);
    }
    assert_eq!(s.in_doubt(B), returns);
    s.lose(0);
    s.writes(A, "a");
    s.closes(A);
    s.all_arrives();
    assert_eq!(s.reads(A), read("", End::Clean));
    s.reads(B)
}

#[test]
fn trace_8_no_move_onto_a_connection_that_was_left() {
    for old in KINDS {
        for new in KINDS {
            let right = read("a", End::Clean);
            assert_eq!(return_to_a_pruned_connection(old, new, false), right);
            // The stream was healthy, but in doubt.
            let wrong = read("a", End::Reset);
            assert_eq!(return_to_a_pruned_connection(old, new, true), wrong);
        }
    }
}
