package runlog

// Kind names the one part of the record that is set: header, clock, event,
// bin, latency, failure, held, served, sample, census, autopsy, loss,
// endpoints, dataplane or trailer. It is empty where none or more than one is set, which is no valid
// record.
func (r *Record) Kind() string {
	kind, n := "", 0
	set := func(name string, isSet bool) {
		if isSet {
			kind = name
			n++
		}
	}
	set("header", r.Header != nil)
	set("clock", r.Clock != nil)
	set("event", r.Event != nil)
	set("bin", r.Bin != nil)
	set("latency", r.Latency != nil)
	set("failure", r.Failure != nil)
	set("held", r.Held != nil)
	set("served", r.Served != nil)
	set("sample", r.Sample != nil)
	set("census", r.Census != nil)
	set("autopsy", r.Autopsy != nil)
	set("loss", r.Loss != nil)
	set("endpoints", r.Endpoints != nil)
	set("dataplane", r.Dataplane != nil)
	set("trial", r.Trial != nil)
	set("trailer", r.Trailer != nil)
	if n != 1 {
		return ""
	}
	return kind
}
