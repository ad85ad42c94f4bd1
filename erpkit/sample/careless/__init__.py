"""A module as it should not be, for rehearsals alone: it is registered nowhere."""
