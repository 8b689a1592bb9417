"""The project's own controllers against models of a gateway, in virtual time: nothing here touches a network."""
