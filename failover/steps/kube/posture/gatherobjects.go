package posture

import "context"

// serviceReference is how objects name a service.
type serviceReference struct{ Namespace, Name string }

// add notes a reference to a service that does not come by the mirror.
func (a *api) add(all *[]reference, kind, name string, mirrored bool, service *serviceReference, ignored bool) {
	if service == nil || a.scope.namespaced(service.Namespace, "services", "specs", service.Namespace, service.Name) {
		return
	}
	*all = append(*all, reference{kind: kind, name: name, namespace: service.Namespace, service: service.Name, ignored: ignored, mirrored: mirrored})
}

func readAPIServices(ctx context.Context, a *api, s *side) error {
	type item struct {
		named
		Spec struct{ Service *serviceReference }
	}
	return list(ctx, a, "/apis/apiregistration.k8s.io/v1/apiservices", nil, asJSON, func(o item) {
		a.add(&s.apiServices, "APIService", o.Metadata.Name, a.scope.keeps("apiregistration.k8s.io", "apiservices", o.Metadata.Name), o.Spec.Service, false)
	})
}

func readWebhooks(ctx context.Context, a *api, s *side) error {
	type item struct {
		named
		Webhooks []struct {
			Name          string
			FailurePolicy string
			ClientConfig  struct{ Service *serviceReference }
		}
	}
	for _, k := range []struct{ kind, resource string }{{"MutatingWebhookConfiguration", "mutatingwebhookconfigurations"}, {"ValidatingWebhookConfiguration", "validatingwebhookconfigurations"}} {
		err := list(ctx, a, "/apis/admissionregistration.k8s.io/v1/"+k.resource, nil, asJSON, func(o item) {
			for _, w := range o.Webhooks {
				a.add(&s.webhooks, k.kind, o.Metadata.Name+" ("+w.Name+")", a.scope.keeps(k.resource, o.Metadata.Name), w.ClientConfig.Service, w.FailurePolicy == "Ignore")
			}
		})
		if err != nil {
			return err
		}
	}
	return list(ctx, a, definitionsPath, nil, asJSON, func(o crd) {
		if w := o.Spec.Conversion.Webhook; w != nil {
			a.add(&s.webhooks, "CustomResourceDefinition", o.Metadata.Name+" (conversion)", o.mirrored(a.scope), w.ClientConfig.Service, false)
		}
	})
}

// readServices notes which services there are. It may be asked for twice.
func readServices(ctx context.Context, a *api, s *side) error {
	if s.services != nil {
		return nil
	}
	all := map[string]bool{}
	err := list(ctx, a, "/api/v1/services", nil, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", func(o named) {
		all[o.Metadata.Namespace+"/"+o.Metadata.Name] = true
	})
	if err == nil {
		s.services = all
	}
	return err
}

func readVolumes(ctx context.Context, a *api, s *side) error {
	type item struct {
		named
		Spec struct {
			PersistentVolumeReclaimPolicy string
			ClaimRef                      serviceReference
			CSI                           struct{ Driver string }
		}
	}
	return list(ctx, a, "/api/v1/persistentvolumes", nil, asJSON, func(o item) {
		claim := o.Spec.ClaimRef
		s.volumes = append(s.volumes, volume{
			name: o.Metadata.Name, driver: o.Spec.CSI.Driver, reclaim: o.Spec.PersistentVolumeReclaimPolicy, claimNamespace: claim.Namespace, claim: claim.Name,
			mirrored:      a.scope.keeps("persistentvolumes", o.Metadata.Name),
			claimMirrored: a.scope.namespaced(claim.Namespace, "persistentvolumeclaims", claim.Namespace, claim.Name),
		})
	})
}

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

type crd struct {
	named
	Spec struct {
		Group      string
		Scope      string
		Names      struct{ Plural string }
		Versions   []struct{ Name string }
		Conversion struct {
			Webhook *struct {
				ClientConfig struct{ Service *serviceReference }
			}
		}
	}
	Status struct{ StoredVersions []string }
}

func (c *crd) mirrored(s scope) bool {
	return s.keeps("apiextensions.k8s.io", "customresourcedefinitions", c.Metadata.Name)
}

func readDefinitions(ctx context.Context, a *api, s *side) error {
	s.definitions = map[string]definition{}
	return list(ctx, a, definitionsPath, nil, asJSON, func(o crd) {
		d := definition{stored: o.Status.StoredVersions, mirrored: o.mirrored(a.scope)}
		for _, v := range o.Spec.Versions {
			d.versions = append(d.versions, v.Name)
		}
		// Whether objects are mirrored is asked with names that no rule is about.
		if o.Spec.Scope == "Cluster" {
			d.objects = a.scope.keeps(o.Spec.Group, o.Spec.Names.Plural, "posture-check")
		} else {
			d.objects = a.scope.keeps(o.Spec.Group, o.Spec.Names.Plural, "posture-check", "posture-check")
		}
		s.definitions[o.Metadata.Name] = d
	})
}
