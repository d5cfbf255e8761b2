package encryption_test

//lint:file-ignore SA1019 clusters that still use KMS v1 are read, too

import (
	"context"

	"google.golang.org/grpc"
	kmsv1 "k8s.io/kms/apis/v1beta1"
)

// registerV1 lets a plugin serve the old version of the API.
func registerV1(server *grpc.Server, k *kmsPlugin) {
	kmsv1.RegisterKeyManagementServiceServer(server, &pluginV1{plugin: k})
}

type pluginV1 struct {
	kmsv1.UnimplementedKeyManagementServiceServer
	plugin *kmsPlugin
}

func (v *pluginV1) Version(context.Context, *kmsv1.VersionRequest) (*kmsv1.VersionResponse, error) {
	return &kmsv1.VersionResponse{Version: "v1beta1", RuntimeName: "fake", RuntimeVersion: "1"}, nil
}

func (v *pluginV1) Encrypt(_ context.Context, req *kmsv1.EncryptRequest) (*kmsv1.EncryptResponse, error) {
	if _, fail := v.plugin.state(); fail != nil {
		return nil, fail
	}
	return &kmsv1.EncryptResponse{Cipher: wrap("v1", req.Plain)}, nil
}

func (v *pluginV1) Decrypt(_ context.Context, req *kmsv1.DecryptRequest) (*kmsv1.DecryptResponse, error) {
	if _, fail := v.plugin.state(); fail != nil {
		return nil, fail
	}
	plain, err := unwrap("v1", req.Cipher)
	if err != nil {
		return nil, err
	}
	return &kmsv1.DecryptResponse{Plain: plain}, nil
}
