"""What stands between the network and a server: connections, rules, certificates."""
