//! Many streams at once: bursts, full connections, opens whose caller has given up.
