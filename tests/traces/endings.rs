//! Traces 5 and 6: a stream that is finished on one side is not to be spoilt on the other.

use crate::{
    leg::Kind,
    machine::{Abort, Failure, rules::Rule},
    script::{A, B, End, KINDS, Read, Scene, Script, What::*, read},
    stream::Note,
};

/// Trace 5: A request, a response: A closes; B reads that, responds, closes, and its application
/// drops the stream, which is finished. A sends `Migrate` before it has read the response. B denies
/// it.
///
/// Without the rule (the table's: the script obeys it or does not) the `Migrate` is dropped
/// unanswered, and A is in doubt when it reads B's FIN.
fn migrate_what_has_ended(old: Kind, new: Kind, denies: bool) -> Read {
    let mut s = Script::new(&Scene::verified(&[old, new], None));
    s.writes(A, "request");
    s.closes(A);
    s.cross(0, A, &[Data("request"), Fin]);
    assert_eq!(s.reads(B), read("request", End::Clean));
    s.writes(B, "response");
    s.closes(B);
    s.drops(B);
    assert!(s.notes(B).contains(&Note::Over(Ok(()))), "B has finished");
    if !denies {
        s.forgets_what_has_ended(B);
    }

    s.starts(A, 1);
    s.cross(1, A, &[Migrate { id: 2, from: 0 }]);
    if denies {
        s.cross(1, B, &[Deny, Fin]);
        assert_eq!(s.failures(A), [(Failure::Denied, true)]);
    } else {
        s.cross(1, B, &[s.drop_on(1)]);
        assert_eq!(s.failures(A), [(Failure::LegLost, true)]);
    }
    assert_eq!(s.in_doubt(A), !denies);
    s.cross(0, B, &[Data("response"), Fin]);
    s.reads(A)
}

#[test]
fn trace_5_a_migrate_for_a_stream_that_has_ended_is_denied() {
    for old in KINDS {
        for new in KINDS {
            let right = read("response", End::Clean);
            assert_eq!(migrate_what_has_ended(old, new, true), right);
            let wrong = read("response", End::Reset);
            assert_eq!(migrate_what_has_ended(old, new, false), wrong);
        }
    }
}

/// Trace 6: A's input has ended. Its application closes, which takes time, and drops the stream before that is done.
/// Both directions have ended, so this is no abort, and the close is finished in the background.
///
/// Without the rule it is one: a healthy stream is told of as aborted, and its leg is dropped before all is out.
fn drop_what_has_ended(kind: Kind, without: Option<Rule>) {
    let mut s = Script::new(&Scene::verified(&[kind; 2], without));
    s.writes(B, "b");
    s.closes(B);
    s.cross(0, B, &[Data("b"), Fin]);
    assert_eq!(s.reads(A), read("b", End::Clean));
    s.writes(A, "a");
    s.stall(0, A, true);
    assert!(!s.closes(A), "closing takes time");
    assert!(s.status(A).ended);
    s.drops(A);
    if without.is_some() {
        return assert!(s.notes(A).contains(&Note::Over(Err(Abort::Dropped))));
    }
    s.stall(0, A, false);
    s.all_arrives();
    assert_eq!(s.reads(B), read("a", End::Clean));
    assert!(s.notes(A).contains(&Note::Over(Ok(()))));
}

#[test]
fn trace_6_a_drop_after_both_directions_have_ended_is_no_abort() {
    for kind in KINDS {
        drop_what_has_ended(kind, None);
        drop_what_has_ended(kind, Some(Rule::DropAfterEndIsNoAbort));
    }
}
