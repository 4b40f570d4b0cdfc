//! The Parquet tables: schemas, writers and readers, commit protocol, identity and provenance.
