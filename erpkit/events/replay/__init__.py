"""Replay: handing events of the past to handlers, to a broker or to a shadow of a projection once more."""
