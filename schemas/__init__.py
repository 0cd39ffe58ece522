"""The nouns of the project: tables, identities and records, on the standard library and pyarrow."""
