package keyfilter

// Resource returns a function that tells which API resource a key is of, for encryption.CodecConfig.Resource. prefix is the apiserver's --etcd-prefix as for Parse.
// Of a resource whose group the key does not tell, known is false. Keys that hold no object (Internal, Outside, Unclassified) are of no resource: "", "", false.
func Resource(prefix string) (func(key string) (group, resource string, known bool), error) {
	norm, err := normalizePrefix(prefix)
	if err != nil {
		return nil, err
	}
	return func(key string) (group, resource string, known bool) {
		var p parts
		p.scan(norm, []byte(key))
		if p.scope != Namespaced && p.scope != Cluster {
			return "", "", false
		}
		if p.entry != nil {
			return p.entry.group, p.entry.resource, true
		}
		return string(p.group), string(p.resource), len(p.group) > 0
	}, nil
}
