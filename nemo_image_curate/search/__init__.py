"""Search by vectors: saved indexes over embedding columns, live stores, and queries of both."""
