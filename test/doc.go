// Package test holds the tests that need a real Consul, and those of whole runs
// under faults. They use the library as its users do.
//
// The tests start the Consul agents that they need, of the version that
// CONSUL_VERSION names, and skip that under -short. The conformance suite runs
// on exectest as well.
package test
