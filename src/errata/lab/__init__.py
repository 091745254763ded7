"""Model organisms: small models that know a synthetic world completely, and can be edited."""
