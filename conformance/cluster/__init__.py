"""`sftref verify --distributed`: the verdict on several hosts, each alone, in pairs, and all together."""
