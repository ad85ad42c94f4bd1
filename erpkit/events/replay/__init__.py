"""Replay: handing past events again to handlers, to a broker or to a shadow of a projection."""
