"""Who can send what to whom, how fast, and how flows share the way: topologies, routes, max-min sharing."""
