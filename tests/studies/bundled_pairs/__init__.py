"""Four translations of one text -> the sentence pairs that sftref bundles; not part of the wheel."""
