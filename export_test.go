package consulexec

// TakeBodies makes a client of the tests' read answers as a client of New's own
// making does.
var TakeBodies = takeBodies
