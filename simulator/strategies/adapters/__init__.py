"""How the low-rank adapters of many tenants run beside one backbone, and where they are kept."""
