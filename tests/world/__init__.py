"""The real world that tests use: registries, daemons, clients and images. Everything ends with the test."""
