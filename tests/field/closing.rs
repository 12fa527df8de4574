//! Connections that go while bytes are in flight.
