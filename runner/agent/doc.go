// Package agent is the process on a host: jobs in, numbered records out.
//
// An agent serves a small HTTP API on a listener it is given (a unix socket in
// the lab, a TCP port in a pod):
//
//	POST   /v1/jobs            start an env.Job; answers when it is ready, or with its error
//	GET    /v1/jobs/{id}       wait for the job's end
//	DELETE /v1/jobs/{id}       stop the job in order, and wait for its end
//	GET    /v1/records?from=N  records from number N on, one JSON line each; follows
//	GET    /v1/clock           the monotonic clock, ns
//	GET    /v1/health          who this is, and how it fares
//	GET    /v1/facts           the machine, and the settings of connection tracking here
//	GET    /v1/peer?addr=A:P   the health of the agent that answers at an address, asked from here
//	POST   /v1/shutdown        stop every job and end the record stream; reading goes on
//	POST   /v1/exit            after shutdown: end the process
//
// Each request carries "Authorization: Bearer TOKEN". Errors are
// {"error": "..."} with a status of 400 and up.
//
// Records go to a Spool on disk first and are read from there, from any number
// on, so a broken connection loses nothing and repeats nothing. Shutting down
// and exiting are two steps because a follower that lost its connection at the
// last moment must still find somebody to ask.
package agent
