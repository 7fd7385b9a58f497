// Package watch adds up what the samplers of one table recorded to what
// somebody who watches it wants to know: how full it is, what moves, who fills
// it, and whether and when it will be full. It is pure: records in, a [Table]
// out, which is also what `tablefull watch --json` prints.
package watch
